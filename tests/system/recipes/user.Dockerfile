# build: --target service
# $ soliton run image.sif
# serving for app
# owner /srv/data 5800/5800
# mode /srv/data drwxr-x---
# mode /srv/release/data -rw-r--r--
FROM ./debian.sif AS service
LABEL maintainer "Jo Doe <jo@example.org>"
RUN groupadd -r -g 5800 app && useradd --no-log-init -r -u 5800 -g app app \
 && install -d -o app -g app -m 750 /srv/data
ADD release.tar.gz /srv/release/
COPY --chown=app:app --chmod=0640 lines.txt /srv/data/
USER app
EXPOSE 8080
VOLUME ["/srv/data"]
HEALTHCHECK --interval=30s CMD test -e /srv/data || exit 1
STOPSIGNAL SIGINT
CMD ["echo", "serving", "for", "app"]

FROM service AS broken
RUN false
