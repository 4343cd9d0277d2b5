# Creates the folder $1. When the process at the other end of the pipe has ended, ends what runs in
# the folder and removes it, or moves it into the folder $2, where one is given. Whatever starts there
# first writes its id into the pipe, one a line.
trap '' HUP INT PIPE TERM
folder=$1
keep=${2:+$2/${1##*/}}
mkdir -m 700 -- "$folder" ${keep:+"$keep.running"} 2>&1 || exit 1
exec >/dev/null # which is the answer: all went well if nothing was said
started=
while read -r id; do started=$id; done

# A process that has ended but was not waited for has no command line, and another that got its id
# does not name the folder.
runs() {
  if [ -r /proc/self/cmdline ]; then
    tr '\0' '\n' <"/proc/$1/cmdline" | grep -qF -- "$folder/"
  else
    ps -ww -o command= -p "$1" | grep -qF -- "$folder/"
  fi
} 2>/dev/null

# The processes of a cluster start and end by themselves, and may be stopped by a signal.
inside() {
  for link in /proc/[0-9]*/cwd; do
    case $(readlink "$link") in
      "$folder" | "$folder"/*) id=${link#/proc/} && echo "${id%/cwd}" ;;
    esac
  done
}
if [ -d "$folder/etcd" ]; then
  tries=0
  while ids=$(inside) && [ -n "$ids" ]; do
    # The servers are told to stop at once, which they do if their processes are not stopped.
    if [ $tries -eq 0 ]; then kill -s CONT -- $ids; kill -s QUIT -- $ids; fi
    [ $tries -ge 20 ] && kill -s KILL -- $ids
    [ $tries -eq 100 ] && break
    tries=$((tries + 1))
    sleep 0.05
  done
fi 2>/dev/null

# The second differs where something else started the server again.
for id in $started $(head -n 1 "$folder/data/postmaster.pid" 2>/dev/null); do
  tries=0
  while runs "$id"; do
    # To the group, because initdb works through children. It tells the server to stop at once.
    [ $tries -eq 0 ] && kill -s QUIT -- "-$id" "$id"
    [ $tries -eq 100 ] && kill -s KILL -- "-$id" "$id"
    [ $tries -eq 200 ] && break
    tries=$((tries + 1))
    sleep 0.05
  done 2>/dev/null
done

# The tables of PostgreSQL's own, which every database repeats, are not worth their place.
if [ -n "$keep" ]; then
  find "$folder"/data/base "$folder"/*/data/base -type f ! -name '[1-9][0-9][0-9][0-9][0-9]*' -exec rm -f -- {} +
  mv -- "$folder" "$keep"
fi 2>/dev/null

# Again while one of their children is still writing.
tries=0
until rm -rf -- "$folder" 2>/dev/null || [ $tries -eq 100 ]; do
  tries=$((tries + 1))
  sleep 0.05
done

[ -z "$keep" ] || rmdir -- "$keep.running"
