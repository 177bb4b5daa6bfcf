"""Fits the autoencoder to normal footage, calibrates it, and measures it."""
