"""The proof: an acknowledged file is never lost and never wrong, whatever fails."""
