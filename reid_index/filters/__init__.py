"""Expressions over item columns, and the rows that they allow."""
