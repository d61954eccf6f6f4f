# shellcheck shell=bash
# Sourced by the scripts: `run COMMAND...` runs a command; in a script called with --print it only shows it.
set -euo pipefail

print=false
if [[ ${1-} == --print ]]; then
  print=true
  shift # of the calling script: a sourced file shares its arguments
fi

# The words as one line that a shell reads back as the same words, whatever they hold.
quote() {
  local line
  printf -v line '%q ' "$@"
  printf '%s' "${line% }"
}

run() {
  if $print; then
    quote "$@"
    echo
  else
    "$@"
  fi
}

fail() { # MESSAGE: one line; exit status 2 as for any bad input
  echo "error: $1" >&2
  exit 2
}

usage() { # the comment at the top of the calling script
  awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0" >&2
  exit 2
}
