"""GETs, one after the other, until SIGTERM: on fresh connections, or in turns
on a kept one and on fresh ones. Then one line of JSON: how many, and how many
failed. A kept connection is over when the server says so, and not before."""

import http.client
import json
import signal
import sys
import time
from urllib.parse import urlsplit

host, path, mode = urlsplit(sys.argv[1]).netloc, urlsplit(sys.argv[1]).path or "/", sys.argv[2]
going = True


def stop(*_):
    global going
    going = False


signal.signal(signal.SIGTERM, stop)
counts = {"calls": 0, "failed": 0, "firstError": ""}
kept = None
while going:
    is_kept = mode == "kept" and counts["calls"] % 2 == 0
    counts["calls"] += 1
    try:
        connection = kept if is_kept and kept else http.client.HTTPConnection(host, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"status {answer.status}: {body!r}")
        stays = is_kept and not answer.will_close
        kept = connection if stays else None if is_kept else kept
        if not stays:
            connection.close()
    except Exception as error:
        counts["failed"] += 1
        counts["firstError"] = counts["firstError"] or f"{'kept' if is_kept else 'fresh'}: {error!r}"
        kept = None if is_kept else kept
    time.sleep(0.005)
print(json.dumps(counts), flush=True)
