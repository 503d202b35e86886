"""The HTTP server and its page. It needs the packages of the extra ``web``."""
