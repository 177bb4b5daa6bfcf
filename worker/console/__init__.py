"""``worker console``: a web page that follows alerts and scores, and takes verdicts on events.

It reads topics like any consumer and keeps what it shows in a file of its own, which it can rebuild from Kafka. No
other part of the worker knows it.
"""
