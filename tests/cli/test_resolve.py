from pathlib import Path


def write(text: str) -> None:
    Path("c.toml").write_text(text)


def test_defaults_come_from_the_settings(hrkd, engines):
    assert hrkd("distill").code == 0
    options = engines["distill"].options
    assert (options["epochs"], options["batch_size"], options["graph"]) == (None, 8, None)
    assert set(options["sources"].values()) == {"default"}


def test_a_file_overrides_defaults_and_a_table_overrides_top_level_keys(hrkd, engines):
    write('epochs = 4\nbatch-size = 2\n[distill]\nepochs = 5\ngraph = "none"\n[teach]\nlearning_rate = 1\n')
    assert hrkd("distill", "--config", "c.toml").code == 0
    options = engines["distill"].options
    assert (options["epochs"], options["batch_size"], options["graph"]) == (5, 2, "none")
    assert options["learning_rate"] is None  # that of [teach] is not this command's
    assert options["sources"]["epochs"] == options["sources"]["batch_size"] == "file"
    assert options["sources"]["warmup"] == "default"
    assert hrkd("teach", "--model", "m", "--config", "c.toml").code == 0
    options = engines["teach"].options
    assert (options["epochs"], options["learning_rate"]) == (4, 1.0)


def test_the_environment_overrides_the_file_and_command_variables_come_first(hrkd, engines, monkeypatch):
    write("epochs = 4\nwarmup = 0.5\n")
    monkeypatch.setenv("HRKD_EPOCHS", "6")
    assert hrkd("distill", "--config", "c.toml").code == 0
    options = engines["distill"].options
    assert (options["epochs"], options["warmup"]) == (6, 0.5)
    assert options["sources"]["epochs"] == "environment"
    monkeypatch.setenv("HRKD_DISTILL_EPOCHS", "7")
    assert hrkd("distill").code == 0
    assert engines["distill"].options["epochs"] == 7
    assert hrkd("teach", "--model", "m").code == 0
    assert engines["teach"].options["epochs"] == 6


def test_flags_override_everything(hrkd, engines, monkeypatch):
    write("epochs = 4\nhierarchy = false\ngraph = 'frozen'\n")
    monkeypatch.setenv("HRKD_EPOCHS", "6")
    assert hrkd("distill", "--config", "c.toml", "--epochs", "8", "--hierarchy").code == 0
    options = engines["distill"].options
    assert (options["epochs"], options["hierarchy"]) == (8, True)
    assert options["sources"]["epochs"] == options["sources"]["hierarchy"] == "flag"


def test_booleans_and_lists_can_come_from_the_file_and_environment(hrkd, engines, monkeypatch):
    write("force = true\ndedupe = false\ndomains = ['books', 'dvd']\n")
    monkeypatch.setenv("HRKD_JSON", "1")
    ran = hrkd("prepare", "raw", "--config", "c.toml")
    assert ran.code == 0
    assert ran.out.startswith("{")
    options = engines["prepare"].options
    assert (options["force"], options["dedupe"], options["domains"]) == (True, False, ["books", "dvd"])


def test_the_file_itself_can_come_from_the_environment(hrkd, engines, monkeypatch):
    write("epochs = 4\n")
    monkeypatch.setenv("HRKD_CONFIG", "c.toml")
    assert hrkd("distill").code == 0
    assert engines["distill"].options["epochs"] == 4


def test_reserved_and_empty_variables_are_ignored(hrkd, engines, monkeypatch):
    monkeypatch.setenv("HRKD_GOLDEN", "somewhere")
    monkeypatch.setenv("HRKD_DEBUG", "0")
    monkeypatch.setenv("HRKD_EPOCHS", "")  # set to nothing is not set
    assert hrkd("distill").code == 0
    assert engines["distill"].options["epochs"] is None


def test_a_byte_order_mark_is_not_part_of_the_file(hrkd, engines):
    Path("c.toml").write_text("epochs = 4\n", encoding="utf-8-sig")
    assert hrkd("distill", "--config", "c.toml").code == 0
    assert engines["distill"].options["epochs"] == 4


def test_options_of_a_recipe_have_the_source_recipe(hrkd, engines):
    assert hrkd("distill", "--recipe", "paper", "--learning-rate", "1e-4").code == 0
    options = engines["distill"].options
    assert (options["graph"], options["means"], options["learning_rate"]) == ("frozen", "released", 1e-4)
    assert options["sources"]["graph"] == "recipe"
    assert options["sources"]["learning_rate"] == "flag"


def test_a_shared_value_that_only_other_commands_can_take_is_ignored(hrkd, engines, monkeypatch):
    write('batch-size = "auto"\n')
    assert hrkd("distill", "--config", "c.toml").code == 0
    assert engines["distill"].options["batch_size"] == "auto"
    Path("folder").mkdir()
    missing = "hrkd predict: folder: no model in this folder (no config.json, model.safetensors or model.onnx)\n"
    assert hrkd("predict", "folder", "text", "--config", "c.toml").err == missing
    monkeypatch.setenv("HRKD_BATCH_SIZE", "auto")
    assert hrkd("predict", "folder", "text").err == missing
    monkeypatch.setenv("HRKD_DOMAIN", "books")  # for eval: given or auto
    assert hrkd("eval").code == 0
    assert str(engines["eval"].options["domain"]) == "given"
    monkeypatch.setenv("HRKD_PREDICT_BATCH_SIZE", "auto")
    assert hrkd("predict", "folder", "text").err.startswith("hrkd predict: HRKD_PREDICT_BATCH_SIZE: 'auto' is not")
    monkeypatch.setenv("HRKD_BATCH_SIZE", "many")
    wrong = "hrkd distill: HRKD_BATCH_SIZE: 'many' is not a whole number, or auto (see hrkd distill --help)\n"
    assert hrkd("distill").err == wrong
