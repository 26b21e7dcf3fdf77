# $ soliton exec image.sif cat /app/list
# lines.txt
# made
FROM ./debian.sif AS framework
WORKDIR /app
ONBUILD COPY lines.txt .
ONBUILD RUN touch made && ls > /tmp/list && mv /tmp/list list

FROM framework
CMD ["cat", "list"]
