"""Reads the files of a batch job with the types of OpenAI's own package.

    batch_openai.py OUTPUT ERRORS

Every body of OUTPUT must validate, strictly, as the type that the package returns for its kind, and
have no field that the type does not know; every refusal of ERRORS as its error object. The package has
no type for the line around the body, whose documented fields are checked by hand.

requirements: openai==3.51.0
"""

import base64
import json
import struct
import sys

from openai.types import Completion, CreateEmbeddingResponse, ErrorObject
from openai.types.chat import ChatCompletion

KINDS = {
    "chat.completion": ChatCompletion,
    "text_completion": Completion,
    "list": CreateEmbeddingResponse,
}


def unknown(model, path=""):
    """The fields that a model took along without knowing them."""
    for name in model.__pydantic_extra__ or {}:
        yield f"{path}{name}"
    for name in type(model).model_fields:
        values = getattr(model, name)
        for value in values if isinstance(values, list) else [values]:
            if hasattr(value, "__pydantic_extra__"):
                yield from unknown(value, f"{path}{name}.")


def lines(path):
    with open(path, encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            line = json.loads(text)
            assert list(line) == ["id", "custom_id", "response", "error"], (path, number, list(line))
            assert line["id"].startswith("batch_req_"), (path, number)
            yield f"{path}:{number}", line


def check_embeddings(body):
    for item in body["data"]:
        vector = item["embedding"]
        if isinstance(vector, str):  # the client decodes these before the type sees them
            raw = base64.b64decode(vector, validate=True)
            item["embedding"] = list(struct.unpack(f"<{len(raw) // 4}f", raw))


def check_output(path):
    seen = {}
    for where, line in lines(path):
        assert line["error"] is None and line["response"]["status_code"] == 200, where
        body = line["response"]["body"]
        kind = body["object"]
        if kind == "list":
            check_embeddings(body)
        model = KINDS[kind].model_validate(body, strict=True)
        extra = list(unknown(model))
        assert not extra, (where, extra)
        seen[kind] = seen.get(kind, 0) + 1
    return seen


def check_errors(path):
    count = 0
    for where, line in lines(path):
        if line["response"] is None:
            assert line["custom_id"] is None and line["error"]["code"], where
        else:
            assert line["response"]["status_code"] >= 400, where
            ErrorObject.model_validate(line["response"]["body"]["error"], strict=True)
        count += 1
    return count


def main():
    seen = check_output(sys.argv[1])
    missing = set(KINDS) - set(seen)
    assert not missing, missing
    print(seen, check_errors(sys.argv[2]), "refusals")


if __name__ == "__main__":
    main()
