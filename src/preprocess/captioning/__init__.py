"""Vision-language models that caption images, on the rank's device or on a server.

| module            | what it has                                                                     |
|-------------------|---------------------------------------------------------------------------------|
| `backend`         | `CaptionBackend`: what the pipeline needs of a model                            |
| `prepared`        | `Prepared`: an image and its prompt, ready for a backend                        |
| `caption`         | `Caption`: what a model says about one image                                    |
| `answers`         | captions from generated text: without thoughts and marks                        |
| `size_limit`      | the largest image that a model gets                                             |
| `local`           | `LocalModel`: a model of transformers on the rank's device                      |
| `vision_language` | which models of transformers can caption images                                 |
| `inputs`          | inputs of a local model, from images to batches                                 |
| `generation`      | options and seeds of a local model's generation                                 |
| `served`          | `ServedModel`: a model on a server that speaks OpenAI's chat completions        |
| `server`          | `Server`: where that server is, and how it is asked                             |
| `chat`            | requests to the server, and what follows from each kind of answer               |
| `completion`      | the content of one answer                                                       |
| `http_client`     | HTTP with limits on the time and the size of an answer                          |
| `quoting`         | quotations of the server in messages                                            |
"""
