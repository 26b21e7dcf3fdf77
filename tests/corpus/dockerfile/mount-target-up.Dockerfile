# expect: its target is no path
FROM scratch
RUN --mount=type=cache,target=../../../etc true
