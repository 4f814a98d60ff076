"""Who may pull: the registry's verdict, or Blackbox's before it."""
