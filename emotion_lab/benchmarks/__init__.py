"""What ``python -m emotion_lab.bench`` measures; nothing else imports this."""
