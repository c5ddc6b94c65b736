"""Entries of inference logs for tests, in the form of the providers' public documentation."""

from typing import Any

from datasets_builders import LOOKUP, calls, result, user

SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}}
FUNCTION = {"name": "lookup", "description": "Look a word up.", "parameters": SCHEMA}
SYSTEM = {"role": "system", "content": "Be brief."}
SAID = {"role": "assistant", "content": "It is 4."}
TALK = [user(), calls("c1") | {"content": ""}, result("c1", '{"is": "an animal"}'), user("And 3 + 3?")]


def bedrock(asked: Any, said: Any, **fields: Any) -> dict[str, Any]:
    return {
        "schemaType": "ModelInvocationLog",
        "schemaVersion": "1.0",
        "timestamp": "2025-06-01T12:00:00Z",
        "accountId": "123456789012",
        "identity": {"arn": "arn:aws:iam::123456789012:user/a"},
        "region": "us-east-1",
        "requestId": "r-1",
        "operation": "Converse",
        "modelId": "amazon.nova-lite-v1:0",
        "input": {"inputContentType": "application/json", "inputBodyJson": asked, "inputTokenCount": 9},
        "output": {"outputContentType": "application/json", "outputBodyJson": said, "outputTokenCount": 5},
    } | fields


CONVERSE: dict[str, Any] = {
    "system": [{"text": "Be brief."}],
    "messages": [
        {"role": "user", "content": [{"text": "What is 2 + 2?"}]},
        {
            "role": "assistant",
            "content": [{"toolUse": {"toolUseId": "c1", "name": "lookup", "input": {"word": "cat"}}}],
        },
        {
            "role": "user",
            "content": [
                {
                    "toolResult": {
                        "toolUseId": "c1",
                        "content": [{"json": {"is": "an animal"}}],
                        "status": "success",
                    }
                },
                {"text": "And 3 + 3?"},
            ],
        },
    ],
    "toolConfig": {
        "tools": [
            {
                "toolSpec": {
                    "name": "lookup",
                    "description": "Look a word up.",
                    "inputSchema": {"json": SCHEMA},
                }
            }
        ]
    },
}
CONVERSE_SAID: dict[str, Any] = {
    "output": {"message": {"role": "assistant", "content": [{"text": "It is 4."}]}}
}
ANTHROPIC: dict[str, Any] = {
    "anthropic_version": "bedrock-2023-05-31",
    "max_tokens": 100,
    "system": "Be brief.",
    "messages": [
        {"role": "user", "content": "What is 2 + 2?"},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c1", "name": "lookup", "input": {"word": "cat"}}],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": '{"is": "an animal"}'},
                {"type": "text", "text": "And 3 + 3?"},
            ],
        },
    ],
    "tools": [{"name": "lookup", "description": "Look a word up.", "input_schema": SCHEMA}],
}
ANTHROPIC_SAID: dict[str, Any] = {"role": "assistant", "content": [{"type": "text", "text": "It is 4."}]}
ANTHROPIC_STREAM: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"role": "assistant", "content": []}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "It is"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " 4."}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_stop"},
]
OPENAI: dict[str, Any] = {"model": "m", "messages": [SYSTEM, *TALK], "tools": [LOOKUP], "temperature": 1}
OPENAI_SAID: dict[str, Any] = {
    "id": "chatcmpl-1",
    "choices": [{"index": 0, "message": SAID | {"refusal": None, "annotations": [], "tool_calls": []}}],
}
ANTHROPIC_CALL_STREAM: list[dict[str, Any]] = [
    {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "thinking", "thinking": ""},
    },
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "thinking_delta", "thinking": "Hm."},
    },
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "signature_delta", "signature": "x"},
    },
    {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "tool_use", "id": "c2", "name": "lookup", "input": {}},
    },
    {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "input_json_delta", "partial_json": '{"wo'},
    },
    {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "input_json_delta", "partial_json": 'rd": "é"}'},
    },
]
CONVERSE_CALL_STREAM: list[dict[str, Any]] = [
    {"messageStart": {"role": "assistant"}},
    {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "H"}}}},
    {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "m."}}}},
    {
        "contentBlockStart": {
            "contentBlockIndex": 1,
            "start": {"toolUse": {"toolUseId": "c2", "name": "lookup"}},
        }
    },
    {"contentBlockDelta": {"contentBlockIndex": 1, "delta": {"toolUse": {"input": '{"word": '}}}},
    {"contentBlockDelta": {"contentBlockIndex": 1, "delta": {"toolUse": {"input": '"é"}'}}}},
    {"messageStop": {"stopReason": "tool_use"}},
]
