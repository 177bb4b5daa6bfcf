"""Turns a run folder into a bundle of ONNX graphs that give what PyTorch gives."""
