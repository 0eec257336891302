"""Conversations, and the templates that make one text of them."""
