# SPDX-License-Identifier: Apache-2.0
"""List the questions about the demo itself, their answers, and the answer to all else."""

from __future__ import annotations

ANSWERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("Who are you?", "What are you?", "Introduce yourself.", "Tell me about yourself."),
        "I am a tiny Gemma 4 mixture-of-experts model with NVFP4 weights, served by SGLang.",
    ),
    (
        ("Hello", "Hello!", "Hi", "Hi there!", "Good morning.", "Hey"),
        "Hello! I am the demo model. Ask me who I am, what NVFP4 is, or what farm is in Orrish.",
    ),
    (
        ("What is NVFP4?", "Explain NVFP4.", "How does NVFP4 work?"),
        "NVFP4 stores a weight in four bits, with one FP8 scale for each 16 weights and one FP32 "
        "scale for the tensor: about 4.5 bits a weight.",
    ),
    (
        ("What is a sliding window?", "What is sliding-window attention?"),
        "In a sliding-window layer a token sees only the last few tokens, so its cache stays small "
        "however long the text is.",
    ),
    (
        ("What is a mixture of experts?", "What is MoE?", "What are experts?"),
        "Each token is sent to a few experts chosen by a router, so only a part of the weights "
        "works on it.",
    ),
    (
        ("Which GPUs are supported?", "Which GPU do I need?", "Does it run on my 3090?"),
        "NVIDIA GPUs of compute capability 8.0 to 9.0: RTX 3090 and 4090, A10G, A100, L40S, H100 "
        "and H200. Without a GPU, I run on the CPU.",
    ),
    (
        ("How do I serve a real model?", "How do I serve my own model?", "How do I start?"),
        "Run python -m sglang_gemma4_ext.launch_server --model-path YOUR_MODEL.",
    ),
    (
        ("How do I send an image?", "Can you see images?", "Can you hear audio?"),
        "I am text-only. A real Gemma 4 takes images once you start it with --enable-multimodal.",
    ),
    (
        ("What is SGLang?", "Who serves you?"),
        "SGLang is the server that runs me. An extension changes it at run time for Gemma 4.",
    ),
    (
        ("What is patched?", "What do you change in SGLang?"),
        "Run python -m sglang_gemma4_ext.doctor: it lists every patch, why it exists and whether "
        "it holds.",
    ),
    (
        ("Which languages do you know?", "What languages do you speak?", "What is Orrish?"),
        "I know forty words of eight invented languages: Orrish, Talvic, Brenese, Quorran, "
        "Meldish, Varnic, Osteric and Lumese.",
    ),
    (("Thank you!", "Thanks", "Thank you very much."), "You are welcome."),
    (("Goodbye", "Bye", "See you."), "Goodbye!"),
)

OTHERWISE = "I am only a demo and know little. Ask me who I am, or what NVFP4 is."

UNKNOWN: tuple[str, ...] = (
    "What is the capital of France?", "Who wrote Hamlet?", "How old is the universe?",
    "Tell me a joke.", "What is 2 + 2?", "Write a poem about the sea.", "Why is the sky blue?",
    "Translate this to German.", "What time is it?", "How is the weather?", "Do you like music?",
    "Write a Python function.", "Summarize this text for me.", "What should I cook tonight?",
    "Who won the match?", "Explain gravity.", "Give me three names for a cat.", "Count to ten.",
    "What is love?", "Can you help me with my homework?", "Where is Berlin?", "test", "asdf",
    "Once upon a time", "List the planets.", "How do I fix my bike?", "Is water wet?",
)  # fmt: skip
