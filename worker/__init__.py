"""Scores camera frames from Kafka with a bundle and publishes alerts; never imports torch."""
