"""The step that gives every row in flight its next tokens: beside a teacher, without one, and with drafts."""
