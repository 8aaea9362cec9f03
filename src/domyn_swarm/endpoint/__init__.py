"""OpenAI-compatible endpoints: the client that jobs use, and a demo server to rehearse with."""
