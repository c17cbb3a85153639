"""Labelled data: examples of every kind of task, read from files of many forms and looked at, without torch."""
