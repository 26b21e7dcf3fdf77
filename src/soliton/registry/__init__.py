"""Images elsewhere: the distribution protocol, credentials, resumable downloads."""
