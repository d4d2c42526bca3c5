"""The stages of the cache that jobs make, and the modules whose code is in their keys."""

STAGES = {
    "tensors": ["packager.jobs.compare_tensors"],
    "tokenizer": ["packager.jobs.compare_tokenizers"],
    "hf": [
        "packager.jobs.convert_gguf",
        "packager.jobs.decode_weights",
        "packager.jobs.extract_text",
    ],
    "merged": ["packager.jobs.merge_adapter"],
    "text": ["packager.jobs.reference"],
    "reference": ["packager.jobs.reference"],
    "gptq": ["packager.jobs.calibrate"],
    "sensitivity": ["packager.jobs.sensitivity"],
    "onnx": [
        "packager.jobs.build_onnx",
        "packager.jobs.check",
        "packager.genai.folder",
    ],
    "embedding": ["packager.jobs.export_encoder"],
    "vision": ["packager.jobs.export_vision"],
    "stored-vision": ["packager.jobs.store_vision"],
    "seeing": ["packager.jobs.check_vision", "packager.vision.attach"],
    "picture-prompts": ["packager.jobs.picture_prompts"],
    "picture-reference": ["packager.jobs.refer_pictures"],
    "measured-pictures": ["packager.jobs.measure_pictures"],
    "measured": ["packager.jobs.measure"],
    "speed": ["packager.jobs.measure"],
}
