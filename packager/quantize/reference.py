"""What the model said before quantization. Runs as a child process, for the memory it takes:

    python -m packager.quantize.reference FOLDER TRUST_REMOTE_CODE PROMPT MAX_TOKENS

The result is a JSON object on the last line of stdout.
"""

import json
import sys
from pathlib import Path

from packager.quantize.check import has_chat_template


def answer(folder: Path, prompt: str, max_tokens: int, *, trust_remote_code: bool) -> str:
    """What a Hugging Face model says to a prompt in fp32, greedily."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=trust_remote_code
    )
    if has_chat_template(folder):
        messages = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    else:
        inputs = tokenizer(prompt, return_tensors="pt")
    with torch.inference_mode():
        output = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_tokens,
            do_sample=False,
        )
    new = output[0, inputs["input_ids"].shape[1] :]
    return str(tokenizer.decode(new, skip_special_tokens=True)).strip()


if __name__ == "__main__":
    text = answer(
        Path(sys.argv[1]),
        sys.argv[3],
        int(sys.argv[4]),
        trust_remote_code=sys.argv[2] == "true",
    )
    sys.stdout.write("\n" + json.dumps({"answer": text}) + "\n")
