"""One exporter a file: a source becomes one `onnx_ir.Model` whose interface is named as the field names it."""
