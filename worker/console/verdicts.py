"""Sends verdicts to the feedback topic."""

import threading

from contract.errors import FramewatchError
from contract.feedback import Feedback
from worker.delivery import Delivery
from worker.records import feedback_record
from worker.settings import KafkaSettings

_PATIENCE_MS = 10_000
_CLOSE_SECONDS = 2.0


class VerdictSender:
    """Sends one verdict at a time, through a producer that is opened with the first and anew after a failure.

    Args:
        kafka: The broker; a verdict must be confirmed within ten seconds, since a person waits for it.
        topic: Topic of feedback.
    """

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        patience = {name: min(getattr(kafka, name), _PATIENCE_MS) for name in _PATIENT}
        self._kafka = kafka.model_copy(update=patience)
        self._topic = topic
        self._lock = threading.Lock()
        self._delivery: Delivery | None = None

    def send(self, feedback: Feedback) -> None:
        """Send a verdict and wait until the broker has confirmed it; blocks.

        Raises:
            BrokerUnavailableError: No broker answers.
            DeliveryError: It was not confirmed; it may stand on the topic all the same.
        """
        with self._lock:
            try:
                if self._delivery is None:
                    self._delivery = Delivery(self._kafka)
                self._delivery.send([feedback_record(feedback, self._topic)])
            except FramewatchError:
                self._close()
                raise

    def close(self) -> None:
        """Close the producer."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        delivery, self._delivery = self._delivery, None
        if delivery is not None:
            delivery.close(_CLOSE_SECONDS)


_PATIENT = ("delivery_timeout_ms", "bootstrap_timeout_ms")
