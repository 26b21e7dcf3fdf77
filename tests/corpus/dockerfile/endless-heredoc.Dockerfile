# expect: never ended
FROM scratch
RUN <<A <<B
A
x
