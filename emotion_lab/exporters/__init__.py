"""Export to ONNX, OpenVINO, TorchScript and torch.export with a parity certificate."""
