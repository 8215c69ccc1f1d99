"""Where do instruction counts come from? A core under qemu, its board's files, and what runs there."""
