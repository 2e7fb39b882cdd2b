"""Chat templates with tools, of the forms that GLM-4.5, GLM-4.7 and GLM-4-0414 publish, in words of our own."""

import json
from pathlib import Path
from typing import Any, Final

from glmquant.glm.config import GlmConfig
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, load_tokenizer
from tests.support.glm4 import write_tokenizer

_TOOLS: Final = """\
[gMASK]<sop>
{%- if tools -%}
<|system|>
# Functions
You may call these:
<tools>
{% for tool in tools %}
{{ tool | tojson(ensure_ascii=False) }}
{% endfor %}
</tools>
{%- endif -%}
{%- macro words(content) -%}
  {%- if content is string -%}{{ content }}
  {%- elif content is iterable and content is not mapping -%}
    {%- for part in content -%}{{ part if part is string else part.text }}{%- endfor -%}
  {%- else -%}{{ content }}{%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(last_user=-1) -%}
{%- for m in messages -%}
  {%- if m.role == 'user' -%}{%- set ns.last_user = loop.index0 -%}{%- endif -%}
{%- endfor -%}
"""
_ARGUMENTS: Final = "{{ v | tojson(ensure_ascii=False) if v is not string else v }}"

GLM_45: Final = (
    _TOOLS
    + """\
{%- for m in messages -%}
{%- if m.role == 'user' -%}<|user|>
{{ words(m.content) }}
{%- elif m.role == 'assistant' -%}<|assistant|>
{{- '\\n<think></think>' }}
{%- if words(m.content).strip() -%}{{ '\\n' + words(m.content).strip() }}{%- endif -%}
{%- if m.tool_calls -%}
{%- for call in m.tool_calls -%}
{%- if call.function -%}{%- set call = call.function -%}{%- endif -%}
{{ '\\n<tool_call>' + call.name }}
{% for k, v in call.arguments.items() %}
<arg_key>{{ k }}</arg_key>
<arg_value>"""
    + _ARGUMENTS
    + """</arg_value>
{% endfor %}
</tool_call>
{%- endfor -%}
{%- endif -%}
{%- elif m.role == 'tool' -%}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}{{ '<|observation|>' }}{%- endif -%}
{{ '\\n<tool_response>\\n' + words(m.content) + '\\n</tool_response>' }}
{%- elif m.role == 'system' -%}<|system|>
{{ words(m.content) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>
{{- '\\n<think></think>' if enable_thinking is defined and not enable_thinking else '' }}
{%- endif -%}
"""
)

GLM_47: Final = (
    _TOOLS
    + """\
{%- for m in messages -%}
{%- if m.role == 'user' -%}{{ '<|user|>' + words(m.content) }}
{%- elif m.role == 'assistant' -%}{{ '<|assistant|></think>' + words(m.content).strip() }}
{%- for call in m.tool_calls or [] -%}
{%- set call = call.function if call.function else call -%}
{{ '<tool_call>' + call.name }}
{%- for k, v in call.arguments.items() -%}
<arg_key>{{ k }}</arg_key><arg_value>"""
    + _ARGUMENTS
    + """</arg_value>
{%- endfor -%}
</tool_call>
{%- endfor -%}
{%- elif m.role == 'tool' -%}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}{{ '<|observation|>' }}{%- endif -%}
{{ '<tool_response>' + words(m.content) + '</tool_response>' }}
{%- elif m.role == 'system' -%}{{ '<|system|>' + words(m.content) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|assistant|>' + ('</think>' if enable_thinking is defined and not enable_thinking else '<think>') }}
{%- endif -%}
"""
)

GLM_4_0414: Final = """\
[gMASK]<sop>
{%- if tools -%}<|system|>
# Tools
{%- for tool in tools -%}
{%- set function = tool.function if tool.function else tool %}

## {{ function.name }}

{{ function | tojson(indent=4, ensure_ascii=False) }}
{%- endfor -%}
{%- endif -%}
{%- for m in messages -%}
{%- set meta = m.get('metadata', '') -%}
{%- if m.role == 'assistant' and meta -%}{{ '<|assistant|>' + meta + '\\n' + m.content }}
{%- else -%}{{ '<|' + m.role + '|>\\n' + m.content }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}
"""


WORDS: Final = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>",
    "<tool_response>", "</tool_response>",
)  # fmt: skip
"""Tokens that GLM-4.5 and later have beside the special ones."""


def write_tool_tokenizer(to: Path) -> GlmConfig:
    """GLM-4's, with these words."""
    config = write_tokenizer(to)
    path = to / "tokenizer_config.json"
    side = json.loads(path.read_text())
    declared = side["added_tokens_decoder"]
    first = 1 + max(map(int, declared))
    declared |= {str(first + place): {"content": word, "special": False} for place, word in enumerate(WORDS)}
    path.write_text(json.dumps(side))
    return config


def tool_tokenizer(directory: Path) -> GlmTokenizer:
    return load_tokenizer(directory, write_tool_tokenizer(directory))


def as_transformers_has_it(tokenizer: GlmTokenizer, directory: Path) -> Any:
    """The same tokenizer by transformers."""
    from transformers import AutoTokenizer

    tokenizer.save(directory)
    (directory / "config.json").write_text(json.dumps({"model_type": "glm4"}))
    return AutoTokenizer.from_pretrained(directory, local_files_only=True)
