#!/bin/sh
# Asks for $URL every two seconds, and says what came of it.
while true; do
    if answer=$(curl --silent --show-error --fail --max-time 5 "$URL" 2>&1); then
        echo "got $answer"
    else
        echo "got nothing: $answer"
    fi
    sleep 2
done
