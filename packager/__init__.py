"""The host side of edgepack: quantize a model, freeze a runtime, join them into one bundle."""
