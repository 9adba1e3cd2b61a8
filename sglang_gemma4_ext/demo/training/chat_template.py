# SPDX-License-Identifier: Apache-2.0
"""Write the demo's chat template, which renders tools, calls and results as Gemma 4's does.

The demo has no thoughts. The template names preserve_thinking because servers take a template
without that word for one older than 2026-07-15.
"""

from __future__ import annotations

_MACROS = """\
{#- Thoughts are not rendered, so preserve_thinking has no effect. -#}
{%- macro value(v) -%}
{%- if v is none -%}null
{%- elif v is string -%}<|"|>{{ v }}<|"|>
{%- elif v is boolean -%}{{ "true" if v else "false" }}
{%- elif v is mapping -%}{{ "{" }}{{ fields(v) }}{{ "}" }}
{%- elif v is iterable -%}[
{%- for one in v -%}{{ value(one) }}{{ "," if not loop.last }}{%- endfor -%}]
{%- else -%}{{ v }}
{%- endif -%}
{%- endmacro -%}
{%- macro fields(v) -%}
{%- for key, one in v | dictsort -%}
{{ key }}:{{ value(one) }}{{ "," if not loop.last }}
{%- endfor -%}
{%- endmacro -%}
{%- macro schema(s) -%}
{%- if s.description -%}description:{{ value(s.description) }},{%- endif -%}
{%- if s.enum -%}enum:{{ value(s.enum) }},{%- endif -%}
{%- if s["items"] is mapping -%}items:{{ "{" }}{{ schema(s["items"]) }}{{ "}," }}{%- endif -%}
{%- if s.nullable -%}nullable:true,{%- endif -%}
{%- if s.properties -%}properties:{{ "{" }}
{%- for key, one in s.properties | dictsort -%}
{{ key }}:{{ "{" }}{{ schema(one) }}{{ "}" }}{{ "," if not loop.last }}
{%- endfor -%}{{ "}," }}{%- endif -%}
{%- if s.required -%}required:{{ value(s.required) }},{%- endif -%}
type:{{ value(s.type | default("") | string | upper) }}
{%- endmacro -%}
"""
_SYSTEM = """\
{{- bos_token -}}
{%- set ns = namespace(first="", previous="") -%}
{%- if messages and messages[0].role in ("system", "developer") -%}
{%- set ns.first = messages[0].content | trim -%}
{%- set messages = messages[1:] -%}
{%- endif -%}
{%- if tools or ns.first -%}<|turn>system
{{ ns.first }}
{%- for tool in tools or () -%}
<|tool>declaration:{{ tool.function.name }}{{ "{" -}}
description:{{ value(tool.function.description or "") }}
{%- if tool.function.parameters -%}
,parameters:{{ "{" }}{{ schema(tool.function.parameters) }}{{ "}" }}
{%- endif -%}{{ "}" }}<tool|>
{%- endfor -%}<turn|>
{% endif -%}
"""
_MESSAGES = """\
{%- for message in messages -%}
{%- set content = (message.content or "") | trim -%}
{%- if message.role == "tool" -%}
{%- set found = namespace(name=message.name or "unknown") -%}
{%- for other in messages -%}{%- for call in other.tool_calls or () -%}
{%- if call.id and call.id == message.tool_call_id -%}
{%- set found.name = call.function.name -%}
{%- endif -%}
{%- endfor -%}{%- endfor -%}
{%- if ns.previous != "tool" and ns.previous != "calls" -%}<|turn>model
{% endif -%}
<|tool_response>response:{{ found.name }}{{ "{" }}value:{{ value(message.content or "") }}
{{- "}" }}<tool_response|>
{%- set ns.previous = "tool" -%}
{%- else -%}
{%- set continues = message.role == "assistant" and ns.previous == "tool" -%}
{%- if ns.previous == "tool" and not continues -%}<turn|>
{% endif -%}
{%- if not continues -%}<|turn>{{ "model" if message.role == "assistant" else message.role }}
{% endif -%}
{{- content -}}
{%- for call in message.tool_calls or () -%}
{%- set arguments = call.function.arguments -%}
<|tool_call>call:{{ call.function.name }}{{ "{" }}
{{- fields(arguments) if arguments is mapping else arguments }}{{ "}" }}<tool_call|>
{%- endfor -%}
{%- if message.tool_calls -%}
{%- set ns.previous = "calls" -%}
{%- if loop.last or loop.nextitem.role != "tool" -%}<|tool_response>
{%- endif -%}
{%- else -%}
{%- set ns.previous = message.role -%}<turn|>
{% endif -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and ns.previous != "tool" and ns.previous != "calls" -%}<|turn>model
{% endif -%}
"""
CHAT_TEMPLATE = _MACROS + _SYSTEM + _MESSAGES
