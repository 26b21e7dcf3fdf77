# expect: means nothing for
FROM scratch
RUN --mount=type=bind,source=/,target=/h,bind-propagation=rshared true
