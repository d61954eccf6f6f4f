"""The commands of `eca-jax`, one file each: arguments in, calls of the library, words for people out."""
