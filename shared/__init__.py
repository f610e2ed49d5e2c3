"""The words both sides speak: the task, the wire, the process. Imports nothing of ours."""
