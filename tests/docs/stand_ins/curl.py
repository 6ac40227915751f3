"""`curl`, as far as the pages use it, for machines that do not have it."""

import argparse

import httpx

parser = argparse.ArgumentParser(prog="curl", allow_abbrev=False)
parser.add_argument("url")
parser.add_argument("-s", action="store_true")
parser.add_argument("-i", action="store_true")
parser.add_argument("-H", action="append", default=[], dest="headers")
parser.add_argument("-d", dest="body")
given = parser.parse_args()

headers = [tuple(line.split(": ", 1)) for line in given.headers]
with httpx.Client(trust_env=False) as client:
    answer = client.request("GET" if given.body is None else "POST", given.url, headers=headers, content=given.body)
if given.i:
    print(answer.http_version, answer.status_code, answer.reason_phrase)
    for name, value in answer.headers.items():
        print(f"{name}: {value}")
    print()
print(answer.text)
