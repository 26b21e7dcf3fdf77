# expect: ONBUILD FROM is not possible
FROM scratch
ONBUILD FROM other
