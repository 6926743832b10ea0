"""What has happened lately, counted from the audit events: the audit-relay writes it, the scheduler reads it.

`sketch`: percentiles of durations; `minutes`: what happened in a minute; `reasons`: reasons of failures that are alike.
"""
