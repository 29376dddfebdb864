#!/bin/sh
# A fake docker command. A container is a separate process, which keeps running when the client that started it is killed.
# The folder of this file has a log of the commands, and a file with the pid of each container by name.
# REDIS_SERVER is the program in the image.
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
