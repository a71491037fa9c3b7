"""The chat templates that differ in how they write answers: one template for each format.

The names are written down because deriving all formats takes seconds, in each process that collects the tests. A test
of `test_answer_format.py` derives them and fails if these lists are not what it finds.
"""

from typing import Final

JSON_CALLS: Final = (
    *("axolotl/command_a_rag", "axolotl/command_a_tool_use", "axolotl/deepseek_v3", "axolotl/exaone4"),
    *("axolotl/jamba", "axolotl/llama4", "axolotl/mistral_v2v3", "axolotl/mistral_v3_tekken", "axolotl/qwen3"),
    *("trl/deepseek_r1_distill", "trl/gptoss", "trl/llama3_1", "trl/qwen2_5", "trl/qwen3"),
)
"""Templates that write tool calls as JSON."""
OTHER_CALLS: Final = (
    *("axolotl/gemma4", "trl/diffusion_gemma", "trl/gemma4_v2", "trl/glm4moe", "trl/glm4moe_training"),
    *("trl/lfm2_2_5", "trl/lfm2_2_5_vl", "trl/lfm2_v2", "trl/muse_glimmer", "trl/nemotron_3_5_lightning"),
    *("trl/qwen3_5_nothink", "trl/qwen3_5_think"),
)
"""Templates that write tool calls in another syntax."""
WITHOUT_CALLS: Final = (
    *("axolotl/alpaca", "axolotl/exaone", "axolotl/llava", "axolotl/phi_4", "trl/cohere", "trl/cohere2"),
    *("trl/gemma", "trl/idefics3", "trl/lfm2", "trl/llama3", "trl/llava_next", "trl/phi3", "trl/qwen2_5_vl"),
)
"""Templates that write no tool calls."""
WITH_CALLS: Final = sorted((*JSON_CALLS, *OTHER_CALLS))
DISTINCT: Final = sorted((*WITH_CALLS, *WITHOUT_CALLS))
