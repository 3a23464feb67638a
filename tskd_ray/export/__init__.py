"""The student for other programs: ONNX, 8-bit ONNX, C, a model card (docs/export.md)."""
