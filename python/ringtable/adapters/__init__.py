"""Adapters: tables as what frameworks for caching, sessions and limits ask for, one module for each framework.

Nothing is imported here: `ringtable.adapters.django` needs Django, and so on. The guide has a page for each.
"""
