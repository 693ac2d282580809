# live and predict on a CPU, without torch. docs/install.md shows how to run it.
FROM python:3.12-slim-bookworm

WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY emotion_lab ./emotion_lab
COPY conf ./conf
# The image has no graphics libraries, which opencv-python would need.
RUN pip install --no-cache-dir -c constraints.txt . \
    && pip uninstall -y opencv-python \
    && pip install --no-cache-dir -c constraints.txt --no-deps opencv-python-headless \
    && rm -rf /build/* \
    && useradd --uid 1000 --create-home app \
    && install -d -o app -g app /work

# By number, so that a cluster can tell that it is not root.
USER 1000
WORKDIR /work
EXPOSE 8080
ENTRYPOINT ["emotion-lab"]
CMD ["live", "display=web"]
