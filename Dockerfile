# The extension on top of SGLang's image. Not built by this project's CI: a slow test runs its
# install step in a clean environment.
FROM lmsysorg/sglang:v0.5.23
WORKDIR /opt/sglang-gemma4-ext
COPY . .
RUN python3 -m pip install --no-deps .
EXPOSE 30000
ENTRYPOINT ["python3", "-m", "sglang_gemma4_ext.launch_server", "--host", "0.0.0.0"]
