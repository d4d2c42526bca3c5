"""Chat templates that write the formats of the model families, with what theirs use of Jinja."""

CHATML = """\
{%- if messages[0].role != 'system' -%}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# Thoughts stay in the answers after the last question only: a namespace, a reversed list, `in`.
QWEN3 = """\
{%- set state = namespace(open=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- if state.open and message.role == "user" and message.content is string %}
        {%- set state.open = false %}
        {%- set state.last = (messages|length - 1) - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n\\n<tools>' }}
    {%- for tool in tools %}
        {{- "\\n" }}{{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- for message in messages %}
    {%- set said = message.content if message.content is string else '' %}
    {%- if message.role != "assistant" %}
        {{- '<|im_start|>' + message.role + '\\n' + said + '<|im_end|>' + '\\n' }}
    {%- else %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in said %}
            {%- set thought = said.split('</think>')[0].rstrip('\\n').split('<think>')[-1] %}
            {%- set said = said.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > state.last and (loop.last or (not loop.last and thought)) %}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- said + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

# A word in the system message turns thinking off; it is taken out of the text.
SMOLLM3 = """\
{%- if enable_thinking is not defined -%}
    {%- set enable_thinking = true -%}
{%- endif -%}
{%- set mode = "/think" if enable_thinking else "/no_think" -%}
{%- set wish = "" -%}
{%- if messages[0].role == "system" -%}
    {%- set given = messages[0].content -%}
    {%- if "/no_think" in given -%}
        {%- set mode = "/no_think" -%}
    {%- elif "/think" in given -%}
        {%- set mode = "/think" -%}
    {%- endif -%}
    {%- set wish = given.replace("/no_think", "").replace("/think", "").rstrip() -%}
{%- endif -%}
{{- "<|im_start|>system\\n## Metadata\\n\\nReasoning Mode: " + mode + "\\n\\n" -}}
{%- if wish -%}
    {{- "## Custom Instructions\\n\\n" + wish + "\\n\\n" -}}
{%- else -%}
    {{- "## Custom Instructions\\n\\nBe helpful.\\n\\n" -}}
{%- endif -%}
{{- "<|im_end|>\\n" -}}
{%- set opening = "<think>\\n\\n</think>\\n" if mode == "/no_think" else "" -%}
{%- for message in messages -%}
    {%- set said = message.content if message.content is string else "" -%}
    {%- if message.role == "user" -%}
        {{ "<|im_start|>user\\n" + said + "<|im_end|>\\n" }}
    {%- elif message.role == "assistant" -%}
        {%- generation -%}
        {{ "<|im_start|>assistant\\n" + opening + said.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- endgeneration -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ "<|im_start|>assistant\\n" + opening }}
{%- endif -%}
"""

PHI3 = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' and message['content'] %}"
    "{{ '<|system|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% elif message['role'] in ['user', 'assistant'] %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)

_ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Questions and answers must alternate') }}{% endif %}"
)

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set turns = messages[1:] %}{% set wish = messages[0]['content'] %}"
    "{% else %}{% set turns = messages %}{% set wish = false %}{% endif %}"
    "{% for message in turns %}" + _ALTERNATE + "{% set said = message['content'].strip() %}"
    "{% if loop.first and wish != false %}"
    "{% set said = '<<SYS>>\\n' + wish + '\\n<</SYS>>\\n\\n' + said %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + said + ' [/INST]' }}"
    "{% else %}{{ ' ' + said + ' ' + eos_token }}{% endif %}{% endfor %}"
)

LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- set turns = messages %}
{%- set wish = "" %}
{%- if messages[0]['role'] == 'system' %}
    {%- set wish = messages[0]['content'] | trim %}
    {%- set turns = messages[1:] %}
{%- endif %}
{%- macro heading(role) -%}
    {{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}
{%- endmacro -%}
{{- heading('system') + "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" + wish + "<|eot_id|>" }}
{%- for message in turns %}
    {%- if 'tool_calls' not in message %}
        {{- heading(message.role) + message.content | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- heading('assistant') }}
{%- endif %}
"""

# The system message goes into the last question, as in the models with [INST] tokens.
MISTRAL = (
    "{%- set turns = messages %}"
    "{%- if messages[0].role == 'system' %}"
    "{%- set wish = messages[0].content %}{%- set turns = messages[1:] %}{%- endif %}"
    "{{- bos_token }}{%- for message in turns %}" + _ALTERNATE + "{%- if message.role == 'user' %}"
    "{%- if loop.last and wish is defined %}"
    "{{- '[INST] ' + wish + '\\n\\n' + message.content + '[/INST]' }}"
    "{%- else %}{{- '[INST] ' + message.content + '[/INST]' }}{%- endif %}"
    "{%- else %}{{- ' ' + message.content + eos_token }}{%- endif %}{%- endfor %}"
)

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}" + _ALTERNATE + "{% set role = message['role'] %}"
    "{% if role == 'assistant' %}{% set role = 'model' %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)

# The system message goes before the first question; a content may be a list of parts.
GEMMA3 = """\
{{ bos_token }}
{%- set wish = "" -%}
{%- set turns = messages -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set turns = messages[1:] -%}
    {%- if messages[0]['content'] is string -%}
        {%- set wish = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set wish = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
{%- endif -%}
{%- for message in turns -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (wish if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] == 'text' -%}
                {{ part['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("A content is a text or a list") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""

# Thinking is the default: the prompt opens the thoughts, or closes empty ones. Earlier answers lose
# their thoughts.
QWEN3_5 = """\
{%- set state = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message.role == "user" %}{%- set state.last = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set said = message.content | trim %}
    {%- if message.role == "assistant" %}
        {%- if '</think>' in said and loop.index0 < state.last %}
            {%- set said = said.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + said + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- else %}
        {{- '<think>\\n' }}
    {%- endif %}
{%- endif %}
"""

# Thinking is asked for in the system turn.
GEMMA4 = """\
{{- bos_token -}}
{%- set turns = messages -%}
{%- if (enable_thinking is defined and enable_thinking) or messages[0].role == 'system' -%}
    {{- '<|turn>system\\n' -}}
    {%- if enable_thinking is defined and enable_thinking -%}{{- '<|think|>\\n' -}}{%- endif -%}
    {%- if messages[0].role == 'system' -%}
        {{- messages[0].content | trim -}}
        {%- set turns = messages[1:] -%}
    {%- endif -%}
    {{- '<turn|>\\n' -}}
{%- endif -%}
{%- for message in turns -%}
    {%- set role = 'model' if message.role == 'assistant' else message.role -%}
    {%- set said = message.content -%}
    {%- if role == 'model' and '<channel|>' in said -%}
        {%- set said = said.split('<channel|>')[-1] -%}
    {%- endif -%}
    {{- '<|turn>' + role + '\\n' + said | trim + '<turn|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|turn>model\\n' -}}
    {%- if not (enable_thinking is defined and enable_thinking) -%}
        {{- '<|channel>thought\\n<channel|>' -}}
    {%- endif -%}
{%- endif -%}
"""

# A system prompt of the template's own asks for thoughts.
MINISTRAL3 = (
    "{%- set own = 'First draft your thoughts: [THINK]thoughts[/THINK]answer' %}{{- bos_token }}"
    "{%- if messages[0].role == 'system' %}{%- set own = messages[0].content %}"
    "{%- set turns = messages[1:] %}{%- else %}{%- set turns = messages %}{%- endif %}"
    "{{- '[SYSTEM_PROMPT]' + own + '[/SYSTEM_PROMPT]' }}{%- for message in turns %}"
    "{%- if message.role == 'user' %}{{- '[INST]' + message.content + '[/INST]' }}"
    "{%- elif message.role == 'assistant' %}{{- message.content + eos_token }}"
    "{%- else %}{{- raise_exception('Unknown role ' + message.role) }}{%- endif %}{%- endfor %}"
)

LFM2 = """\
{{- bos_token -}}
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- set said = message['content'] -%}
    {%- if said is not string -%}{%- set said = said | tojson -%}{%- endif -%}
    {{- said + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

PHI4 = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools']"
    " + '<|/tool|>' + '<|end|>' }}"
    "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
