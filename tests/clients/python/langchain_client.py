"""LangChain: ChatOpenAI and an agent, over chat completions or the Responses API."""

from typing import Any

import cases
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import BadRequestError

get_weather = tool(cases.get_weather)
model = ChatOpenAI(
    model=cases.MODEL,
    base_url=cases.V1,
    api_key=cases.KEY,
    max_retries=0,
    use_responses_api=cases.WAY == "responses",
    stream_usage=True,
)


def chat() -> None:
    answer = model.invoke(cases.QUESTION)
    assert "Paris" in answer.text
    assert answer.usage_metadata["total_tokens"] > 0


def stream() -> None:
    chunks = list(model.stream(cases.QUESTION))
    whole = model.invoke(cases.QUESTION)
    assert "".join(chunk.text for chunk in chunks) == whole.text
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert total.usage_metadata["total_tokens"] == whole.usage_metadata["total_tokens"]


def tools() -> None:
    caller = model.bind_tools([get_weather], tool_choice="required", parallel_tool_calls=False)
    messages: list[Any] = [HumanMessage(cases.WEATHER)]
    answer = caller.invoke(messages)
    (call,) = answer.tool_calls
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    after = model.bind_tools([get_weather], tool_choice="none").invoke([*messages, answer, result])
    assert after.text


def agent() -> None:
    @wrap_model_call
    def first_a_call(request: Any, handler: Any) -> Any:
        called = any(isinstance(message, ToolMessage) for message in request.messages)
        return handler(
            request.override(
                tool_choice="none" if called else "required",
                model_settings={"parallel_tool_calls": False},
            )
        )

    runner = create_agent(model, [get_weather], middleware=[first_a_call])
    messages = runner.invoke({"messages": [HumanMessage(cases.WEATHER)]})["messages"]
    kinds = [message.type for message in messages]
    assert kinds[:2] == ["human", "ai"]
    assert kinds[2] == "tool"
    assert kinds[-1] == "ai"
    assert messages[-1].text


def structured() -> None:
    for method in ("json_schema", "function_calling"):
        shaped = model.with_structured_output(cases.City, method=method)
        assert isinstance(shaped.invoke("Tell me of Paris."), cases.City), method


def error() -> None:
    cases.raises(ContextOverflowError, lambda: model.invoke(cases.TOO_LONG))
    cases.raises(BadRequestError, lambda: model.bind(temperature=7).invoke("Hi"), "temperature")


def abort() -> None:
    watch = cases.Watch()
    chunks = model.stream(cases.STORY)
    for chunk in chunks:
        if chunk.text:
            break
    chunks.close()
    watch.gone()


cases.run(chat, stream, tools, agent, structured, error, abort)
