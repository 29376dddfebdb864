#!/bin/sh
# Stands in for Docker. What it runs is a process of its own, as a container is one of the daemon: it goes on when the
# client that started it is killed. Beside this file it keeps what it was asked, and the pid of each container by name.
# REDIS_SERVER says what is in the image.
here=${0%/*}
echo "$*" >>"$here/asked"
case $1 in
run)
  until [ "$1" = redis-server ]; do
    if [ "$1" = --name ]; then name=$2; fi
    shift
  done
  shift
  if [ -z "$name" ]; then exec "$REDIS_SERVER" "$@"; fi
  if [ -e "$here/$name" ]; then exit 125; fi
  setsid "$REDIS_SERVER" "$@" &
  echo $! >"$here/$name"
  wait
  ;;
rm)
  kill -9 "$(cat "$here/$3")"
  rm "$here/$3"
  ;;
pause) kill -STOP "$(cat "$here/$2")" ;;
unpause) kill -CONT "$(cat "$here/$2")" ;;
*) exit 1 ;;
esac
