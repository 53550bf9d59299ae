"""Messages of the client rings: replies of any size fit them."""

from __future__ import annotations

import pytest

from paxmux.shards import requests
from paxmux.shards.requests import Reply, decode_replies, encode_replies


@pytest.mark.parametrize("sizes", [[], [0], [5000], [300] * 40, [5000, 0, 0, 5000, 10], [0] * 1000])
def test_replies_are_cut_without_loss(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "REPLIES_BYTES", 1000)
    replies: list[Reply] = [(seq, 0, seq, 0, bytes(size)) for seq, size in enumerate(sizes)]
    messages = list(encode_replies(replies))
    decoded = [decode_replies(message).replies for message in messages]
    assert [reply for part in decoded for reply in part] == replies
    assert all(len(data) <= 1000 or len(part) == 1 for data, part in zip(messages, decoded, strict=True))
