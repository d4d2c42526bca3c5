"""LlamaIndex, with its class for servers of the OpenAI API."""

import gc
from typing import Any

import cases
import openai
from llama_index.core.llms import ChatMessage, MessageRole
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

llm = OpenAILike(
    model=cases.MODEL,
    api_base=cases.V1,
    api_key=cases.KEY,
    is_chat_model=True,
    is_function_calling_model=True,
    should_use_structured_outputs=True,
    context_window=4096,
    temperature=0,
    max_retries=0,
)
weather = FunctionTool.from_defaults(cases.get_weather)


def user(text: str) -> ChatMessage:
    return ChatMessage(role=MessageRole.USER, content=text)


def chat() -> None:
    assert "Paris" in llm.chat([user(cases.QUESTION)]).message.content


def stream() -> None:
    deltas = [part.delta for part in llm.stream_chat([user(cases.QUESTION)])]
    assert "".join(deltas) == llm.chat([user(cases.QUESTION)]).message.content


def tools() -> None:
    answer = llm.chat_with_tools([weather], cases.WEATHER, tool_required=True)
    (call,) = llm.get_tool_calls_from_response(answer)
    assert call.tool_name == "get_weather"
    turns = [
        user(cases.WEATHER),
        answer.message,
        ChatMessage(
            role=MessageRole.TOOL,
            content=str(weather(**call.tool_kwargs).raw_output),
            additional_kwargs={"tool_call_id": call.tool_id, "name": call.tool_name},
        ),
    ]
    after = llm.chat_with_tools([weather], chat_history=turns, tool_choice="none")
    assert after.message.content


def structured() -> None:
    assert isinstance(
        llm.as_structured_llm(cases.City).complete("Tell me of Paris.").raw, cases.City
    )


def error() -> None:
    too_long: Any = cases.raises(openai.BadRequestError, lambda: llm.chat([user(cases.TOO_LONG)]))
    assert too_long.code == "context_length_exceeded"


def abort() -> None:
    watch = cases.Watch()
    parts = llm.stream_chat([user(cases.STORY)], max_tokens=2000)
    next(parts)
    parts.close()
    del parts
    gc.collect()
    watch.gone()


cases.run(chat, stream, tools, structured, error, abort)
