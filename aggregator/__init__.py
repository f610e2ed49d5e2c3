"""The server: who is asked, what is believed, when it is enough. Never imports torch or the device's side."""
