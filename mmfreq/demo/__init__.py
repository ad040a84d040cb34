"""A local web page that shows what checkpoints see in a picture, and the filters they learned: `tools/demo.py` starts it.

| module | |
|---|---|
| `serve` | what the tool calls |
| `server` | the routes, documented there |
| `models` | which checkpoints there are, and a bounded number of them loaded |
| `uploads` | a picture from the bytes of a request, within bounds |
| `answers` | predictions as plain data for JSON |
| `filter_pictures` | learned filters as small pictures |
| `samples` | scenes to try without a picture of one's own |
| `page.html` | the whole page: no other file, no other host |
"""
