"""The first page: static text of ComfyUI's frontend, sent compressed to clients that take it so."""
